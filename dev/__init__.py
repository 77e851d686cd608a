"""What demo, tests and benches drive: clusters, images, the stand-in provider, and a world of one namespace."""
