"""x86: EPT (Intel SDM Vol. 3C, 30.3), long mode (Vol. 3A, 5.5) and AMD's nested paging (APM Vol. 2, 15.25)."""

NAMES = {
    "x86-4level": "longmode",
    "x86-5level": "longmode",
    "ept4": "ept",
    "ept5": "ept",
    "npt4": "longmode",
    "npt5": "longmode",
}
"""Format -> the module of this folder that holds it. Read without importing any of them."""
