"""Docker and kind without a registry: everything is made of Debian's packages and Go modules.

For root on Debian where no Docker answers. The engine and all that runs below it stand in namespaces of their own, so
that the machine is left as it was.
"""
