"""An MCP server, made with the official SDK as its documentation has it, at a free port: `mcp_server.py /path` prints which. Who may
call it, and from where, is for Sidegate to say."""

import socket
import sys

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

path = sys.argv[1]
server = MCPServer(path.strip("/"))


@server.tool()
def get_answer() -> int:
    """The answer."""
    return 42


# What the SDK would refuse by itself must not be taken for what Sidegate refuses.
open_to_all = TransportSecuritySettings(enable_dns_rebinding_protection=False)
app = server.streamable_http_app(streamable_http_path=path, transport_security=open_to_all)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
