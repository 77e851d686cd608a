"""The real plan against a simulated cluster, in which everything that can go wrong does, in seeded disorder."""
