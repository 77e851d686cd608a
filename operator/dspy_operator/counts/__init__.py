"""What the gateways counted and confirmed, polled while somebody needs to know."""
