"""The gateway: one client, cache and budget served to a team over HTTP, each tenant apart from the others."""
