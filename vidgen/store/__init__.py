"""The truth: every SQL statement of vidgen, each in the function that runs it."""
