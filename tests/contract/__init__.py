"""What is said in two places says the same."""
