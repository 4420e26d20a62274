"""openpi's websocket policy server with this policy: what speaks to openpi's `WebsocketClientPolicy` speaks to it unchanged."""
