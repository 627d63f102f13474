"""`shitu models`: from official weights, or one's own, to a model that is served."""
