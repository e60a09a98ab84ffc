"""x86: EPT (Intel SDM Vol. 3, "The Extended Page Table Mechanism (EPT)")."""
