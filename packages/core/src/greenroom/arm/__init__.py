"""Azure Resource Manager's `Microsoft.App/sessionPools`: ids, resources, errors. Pure; both sides use it."""
