"""One outside thing per room: the wire, the answer store, the job journal, credentials, settings."""
