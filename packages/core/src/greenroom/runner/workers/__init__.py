"""What executes code inside a sandbox: one worker per language, below the supervisor."""
