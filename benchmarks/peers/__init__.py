"""The benchmark's job in other libraries, each run by an interpreter that has it installed."""
