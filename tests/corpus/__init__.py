"""Bad input of every kind we could think of, each case with the fate it must meet."""
