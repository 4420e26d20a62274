"""What the demo runs on where there is neither the network nor a licence for the real thing: stand-ins, made on disk."""
