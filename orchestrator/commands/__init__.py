"""The verbs of the command line, a file for each kind. What they need is imported when they run: most take a moment."""
