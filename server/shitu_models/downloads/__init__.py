"""Official weights: where they are, and how they come here whole, checked against a lock file and unpacked safely."""
