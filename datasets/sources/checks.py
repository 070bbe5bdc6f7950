"""Names of columns that are no quantities, and how many categories and classes there may be."""

import re

MAX_CATEGORIES = 1000
"""Categories that are listed; more are hashed."""
MAX_CLASSES = 1000
FEW = 20
"""So many classes are never too many for the rows of a table, and so many rows too few to tell names from categories."""
COUNTER = re.compile(
    r"(.*[_\s.-]|row|serial|record|line|seq|s|sr|sl)(index|idx|row|no|nr|num|number|seq|serial)\.?"
    r"|index|idx|level_0|row|row_?(id|names?)|serial|instant|#|(?-i:X)",  # X is R's name for the index that it has written
    re.IGNORECASE,
)
"""Names of columns that number the rows, if their values do."""
IDENTIFIER = re.compile(
    r"(?i:(.*[_\s.-])?(id|ids|uuid|guid|zip|zip[_ ]?code|post[_ ]?code|postal[_ ]?code|plz|phone|ssn|isbn|ean|sku|barcode))"
    r"|.*[a-z](Id|ID)"
    r"|(?i:account|case|client|cust|customer|employee|item|loan|member|order|passenger|patient|person|product|record|session"
    r"|student|subject|transaction|user)ID"
)
"""Names of columns whose whole numbers are names of something and no quantities."""
UNNAMED = re.compile(r"|unnamed: ?\d+(\.\d+)*|\.\.\.\d+|_c0|__index_level_\d+__", re.IGNORECASE)
"""What pandas, R and Spark call the index of the rows when it has no name."""
