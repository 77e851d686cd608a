"""How a release moves, as an ordered list of small rules from ledger to ledger. `rules.advance` is the door."""
