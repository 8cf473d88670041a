"""The way of one video: claim, submit, poll, transfer; and the sweep behind it."""
