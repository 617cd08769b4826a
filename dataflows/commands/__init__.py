"""What the subcommands of `riffle` do; `dataflows.cli` says how they are called."""
