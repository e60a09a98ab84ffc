"""What is dangerous in tables that anybody wrote: a file for each concept with its rules, all named in `every`."""
