"""`FORMS` of every family: the parameters with which every method is put through the tests that all must pass."""
