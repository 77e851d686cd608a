"""A server of the Model Context Protocol with one tool, on standard input and output."""

from mcp.server import MCPServer

server = MCPServer("tools")


@server.tool()
def search(query: str) -> str:
    """Finds a passage."""
    return f"a passage of MCP on {query}"


if __name__ == "__main__":
    server.run()
