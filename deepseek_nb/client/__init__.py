"""The client: one road for every request, an async face and a blocking one."""
