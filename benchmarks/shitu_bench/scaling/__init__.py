"""Several gateways beside one."""
