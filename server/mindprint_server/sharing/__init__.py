"""How tenants share the server: quotas of what each may use, and whose turn it is."""
