"""What a user of Lava brings; in a folder of its own, since Lava imports all files beside a process."""
