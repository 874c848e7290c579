"""What the pipeline does with the stages of each type: a file a type, named like it, with a record `KIND`."""
