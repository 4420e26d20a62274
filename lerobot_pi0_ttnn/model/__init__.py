"""What both twins share, in pure torch: sizes, what goes in, where tokens stand, flow matching, tensor names."""
