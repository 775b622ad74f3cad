"""mpaudit in editors, over the Language Server Protocol: `mpaudit server`."""
