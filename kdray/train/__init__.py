"""The training room: one pure-torch loop, and the Ray wiring around it."""
