"""Who may call: API keys, Microsoft Entra ID tokens, and no web pages."""
