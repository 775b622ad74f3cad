"""The checks that need no order of events: each looks at a module and yields problems."""
