"""The decisions: pure functions over frozen values. No client, clock, logger or random number ever enters here."""
