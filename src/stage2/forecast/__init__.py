"""What AxVisor will make of a VM file on a board: the stage-2 map that will be, and why."""
