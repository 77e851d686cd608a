"""What the gateways' counts say about a candidate."""
