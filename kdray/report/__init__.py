"""The report room: what a person reads, drawn from records alone."""
