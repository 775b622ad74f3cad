"""What a project asks of a check: configuration files, and what the command line puts over them.

`key` says which keys there are, `reading` makes layers of files and options, `resolved` merges layers
to settings, `configuration` finds the layers of each checked file, `exclusion` says what is not looked
at, `schema` publishes the keys as a JSON schema.
"""

from mpaudit.settings.configuration import Configuration
from mpaudit.settings.resolved import Settings

__all__ = ["Configuration", "Settings"]
