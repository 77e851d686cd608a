"""How a policy becomes steps when a release starts: one file a strategy."""
