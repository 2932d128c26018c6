"""Models of other libraries, brought to the form of `core.owner_model`. Nothing here loads a pickle."""
