"""What a user's Python program calls: functions in the sandbox, and whole programs."""
