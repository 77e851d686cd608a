"""A pass over one key: observe, plan, execute. Programs and gateways each have one."""
