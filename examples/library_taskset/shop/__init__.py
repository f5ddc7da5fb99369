"""An application whose tasks live in several modules."""
