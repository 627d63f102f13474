"""The server: gateway, gallery process, embedded Triton and the supervisor that runs them."""
