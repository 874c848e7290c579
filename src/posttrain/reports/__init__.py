"""Tables and pages made from run files."""
