"""Authentication: API keys and Microsoft Entra ID tokens; web pages are refused."""
