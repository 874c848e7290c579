"""The words that every world is made of: few, so that a small vocabulary holds each as one token.

A world's seed decides who lives where and what is true; the words stay. So every world reads alike, is
equally hard, and is cut into the same tokens.
"""

from __future__ import annotations

TOWNS = (
    *("Arden", "Belmor", "Carrow", "Dunmere", "Elford", "Farley", "Garrick", "Holmby", "Ilmore", "Jarrow", "Kelby"),
    *("Lorne", "Marlow", "Norwick", "Oakham", "Penrith", "Quorn", "Redmere", "Selby", "Thorpe", "Ulmer", "Varley"),
    *("Wexham", "Yarrow", "Ashby", "Bramley", "Corby", "Denby", "Everley", "Formby", "Grimsby", "Helmsley"),
)
PEOPLE = (
    *("Ada", "Ben", "Cora", "Dan", "Eve", "Finn", "Gwen", "Hal", "Ida", "Jack", "Kit", "Lena", "Max", "Nora"),
    *("Otto", "Pia", "Quin", "Rosa", "Sam", "Tess", "Una", "Vera", "Wim", "Yan", "Zoe", "Abel", "Bea", "Carl"),
    *("Dora", "Emil", "Flora", "Gus"),
)
RIVERS = ("Wye", "Dee", "Esk", "Tam", "Ure", "Ouse", "Nith", "Lune", "Avon", "Exe", "Tees", "Alde")
GOODS = (
    *("wool", "salt", "glass", "tin", "honey", "rope", "cheese", "paper"),
    *("silk", "coal", "beer", "soap", "oats", "clay", "wine", "iron"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
JOBS = (
    *("baker", "smith", "miller", "weaver", "tailor", "farmer", "doctor", "teacher"),
    *("sailor", "mason", "potter", "hunter", "fisher", "cook", "clerk", "guard"),
)
PETS = ("dog", "cat", "crow", "goat", "hen", "fox", "pig", "duck", "horse", "goose", "sheep", "mouse")
FRUITS = ("apples", "pears", "plums", "figs", "grapes", "cherries", "peaches", "berries", "melons", "dates")
WORDS = (
    *("bat", "bee", "box", "cat", "cow", "cup", "dog", "door", "fig", "fox", "gem", "hat", "toy", "jar", "key", "lamp"),
    *("leaf", "map", "moon", "nut", "wolf", "pan", "pen", "pig", "pot", "rose", "ship", "star", "sun", "tree"),
)
"""What lists are made of; every one is written in capitals too."""
