"""The static half: reads programs, executes them abstractly, and yields events and problems."""
