"""The workers, which execute code inside a sandbox: one per language, below the supervisor."""
