#pragma once
#include <array>
#include <string_view>

// The words of the generated corpus, by what can be done with them: only what is edible is eaten, only what can be
// carried is lost or given. Every list is in the program, none is taken from outside.

namespace fathom::words {

inline constexpr std::array<std::string_view, 48> girls = {
    "Mia",   "Lily",  "Anna",  "Ella", "Nora",  "Rosa",  "Clara", "Ivy",   "Maya", "Zoe",   "Lucy",  "Emma",
    "Sara",  "Tess",  "Nina",  "Ruby", "Hazel", "Amy",   "Daisy", "Molly", "Jane", "Kate",  "Wendy", "Olga",
    "Freya", "Greta", "Heidi", "Ida",  "Jade",  "Kira",  "Lena",  "Mona",  "Pia",  "Rita",  "Susan", "Tara",
    "Una",   "Vera",  "Wilma", "Yara", "Alma",  "Bella", "Cora",  "Dora",  "Elsa", "Fiona", "Gina",  "Holly"};
inline constexpr std::array<std::string_view, 48> boys = {
    "Tom",  "Ben",   "Sam",   "Leo",   "Max",   "Finn",  "Jack",   "Oliver", "Noah",   "Eli",   "Luke", "Adam",
    "Hugo", "Oscar", "Peter", "Felix", "Theo",  "Jonas", "Anton",  "Karl",   "David",  "Simon", "Toby", "Will",
    "Alan", "Bruno", "Carl",  "Dan",   "Erik",  "Fred",  "George", "Henry",  "Ivan",   "Jim",   "Ken",  "Lars",
    "Mark", "Nick",  "Omar",  "Paul",  "Ralph", "Steve", "Tim",    "Victor", "Walter", "Yan",   "Zack", "Abel"};
inline constexpr std::array<std::string_view, 32> animal_names = {
    "Pip",   "Dot",     "Bramble", "Clover",   "Fern",    "Nutmeg",  "Pepper", "Biscuit", "Willow", "Bean",  "Moss",
    "Poppy", "Twig",    "Acorn",   "Berry",    "Cricket", "Dusty",   "Ginger", "Maple",   "Olive",  "Peach", "Rusty",
    "Sage",  "Thistle", "Tansy",   "Bluebell", "Cinder",  "Juniper", "Pebble", "Sorrel",  "Toffee", "Basil"};
/// Animals that can be the hero of a story.
inline constexpr std::array<std::string_view, 20> animals = {
    "fox",  "rabbit", "bear",  "mouse", "squirrel", "hedgehog", "otter", "badger", "dog",  "goat",
    "lamb", "kitten", "puppy", "pony",  "beaver",   "mole",     "deer",  "cat",    "frog", "raccoon"};
/// Animals that are found, helped and kept company.
inline constexpr std::array<std::string_view, 11> small_animals = {
    "bird", "kitten", "puppy", "duckling", "rabbit", "hedgehog", "squirrel", "lamb", "turtle", "owl", "mouse"};
inline constexpr std::array<std::string_view, 16> colours = {
    "red",    "blue",   "green", "yellow", "white",  "black",  "brown",   "grey",
    "purple", "orange", "pink",  "golden", "silver", "violet", "scarlet", "turquoise"};
inline constexpr std::array<std::string_view, 30> traits = {
    "kind",       "curious", "brave",    "shy",     "clever",  "cheerful",   "quiet", "gentle",
    "busy",       "patient", "playful",  "careful", "honest",  "stubborn",   "proud", "lively",
    "thoughtful", "funny",   "friendly", "hopeful", "helpful", "dreamy",     "eager", "polite",
    "bold",       "lonely",  "neat",     "merry",   "sleepy",  "adventurous"};

/// Something that can be carried, lost, given and shared: what is done with it, and why somebody is fond of it.
struct Object {
  std::string_view name, use, charm;
};
inline constexpr std::array<Object, 44> objects = {{
    {"ball", "throw and catch", "it bounced so high"},
    {"kite", "fly", "it danced in the wind"},
    {"drum", "play", "it made such a merry sound"},
    {"doll", "play with", "it had such a friendly face"},
    {"toy boat", "sail", "it never tipped over"},
    {"whistle", "blow", "it sounded like a bird"},
    {"marble", "roll", "it shone in the sun"},
    {"puzzle", "put together", "it showed a castle by the sea"},
    {"spinning top", "spin", "it hummed while it turned"},
    {"teddy bear", "hug", "it was so soft"},
    {"lantern", "light", "it made the dark less dark"},
    {"scarf", "wear", "it was warm and long"},
    {"hat", "wear", "it kept the rain away"},
    {"bell", "ring", "it sang with a clear voice"},
    {"storybook", "read", "it was full of pictures"},
    {"map", "look at", "it showed every path in the land"},
    {"basket", "carry", "Grandma had made it"},
    {"cup", "drink from", "it had a little star on it"},
    {"ribbon", "tie", "it was as smooth as water"},
    {"ring", "wear", "it sparkled like a drop of rain"},
    {"coin", "toss", "it came from a land far away"},
    {"shell", "listen to", "it held the sound of the sea"},
    {"feather", "hold", "it was lighter than a breath"},
    {"stone", "keep", "it was round and smooth"},
    {"button", "keep", "it came from Grandpa's coat"},
    {"flute", "play", "it made sweet music"},
    {"blanket", "sleep under", "it smelled of home"},
    {"umbrella", "open", "it looked like a big flower"},
    {"mirror", "look into", "it caught the light of the sun"},
    {"wooden box", "open", "it had a secret lid"},
    {"paintbrush", "paint with", "it made lines as thin as a hair"},
    {"lamp", "light", "it gave a warm glow"},
    {"clock", "wind up", "it ticked like a tiny heart"},
    {"wooden duck", "pull along", "it nodded at every step"},
    {"toy train", "play with", "its wheels really turned"},
    {"crown", "wear", "it made everyone smile"},
    {"medal", "wear", "it reminded everyone of the summer fair"},
    {"telescope", "look through", "it brought the moon close"},
    {"music box", "wind up", "it played a slow waltz"},
    {"snow globe", "shake", "snow fell inside it all year round"},
    {"jump rope", "skip with", "it slapped the ground in time"},
    {"notebook", "draw in", "it still had many empty pages"},
    {"trumpet", "blow", "you could hear it across the valley"},
    {"yo-yo", "play with", "it always came back"},
}};

/// A place out of doors: how one is there, how one goes there, and where a thing can lie hidden.
struct Place {
  std::string_view name, at, to;
  std::array<std::string_view, 4> spots;
  std::string_view sight;
};
inline constexpr std::array<Place, 16> places = {{
    {"forest",
     "in the forest",
     "into the forest",
     {"under a pile of leaves", "behind an old oak tree", "inside a hollow log", "between two roots"},
     "the tall trees whispered in the wind"},
    {"park",
     "in the park",
     "to the park",
     {"under a bench", "behind the fountain", "next to the swing", "in the flower bed"},
     "children were running over the grass"},
    {"garden",
     "in the garden",
     "into the garden",
     {"under a cabbage leaf", "behind the shed", "beside the well", "among the roses"},
     "bees hummed from flower to flower"},
    {"river",
     "by the river",
     "down to the river",
     {"between the reeds", "behind a big rock", "under the wooden bridge", "in the wet sand"},
     "the water sparkled over the stones"},
    {"beach",
     "at the beach",
     "to the beach",
     {"under the warm sand", "behind a rock", "inside an old boat", "among the shells"},
     "small waves rolled in and out"},
    {"hill",
     "on the hill",
     "up the hill",
     {"under a bush", "behind a grey stone", "in the tall grass", "beside the lonely pine"},
     "one could see the whole valley"},
    {"meadow",
     "in the meadow",
     "to the meadow",
     {"in the tall grass", "under a daisy", "behind the hay cart", "next to the stream"},
     "butterflies flew over the flowers"},
    {"farm",
     "on the farm",
     "to the farm",
     {"in the hay", "behind the barn", "under the cart", "next to the hen house"},
     "the cows looked up and went on chewing"},
    {"market",
     "at the market",
     "to the market",
     {"under a table", "behind a basket of apples", "beside the bread stall", "between two barrels"},
     "people called out what they had to sell"},
    {"pond",
     "by the pond",
     "to the pond",
     {"under a lily leaf", "between the reeds", "behind the willow", "under the little pier"},
     "a dragonfly hung in the air"},
    {"orchard",
     "in the orchard",
     "to the orchard",
     {"under an apple tree", "behind the ladder", "in an empty crate", "beside the stone wall"},
     "the branches were heavy with fruit"},
    {"village square",
     "in the village square",
     "to the village square",
     {"under the old clock", "behind the fountain", "on the steps of the town hall", "beside the baker's door"},
     "the clock was just striking"},
    {"lake",
     "at the lake",
     "to the lake",
     {"under the pier", "behind a fallen tree", "in an old rowing boat", "among the pebbles"},
     "the water was as still as glass"},
    {"castle ruins",
     "at the castle ruins",
     "to the castle ruins",
     {"behind a broken wall", "at the foot of the tower", "under the stone stairs", "in the dry well"},
     "ivy climbed over the old walls"},
    {"barn",
     "in the barn",
     "to the barn",
     {"under the straw", "behind the ladder", "in an old wooden bucket", "beneath the wagon"},
     "it smelled of hay and dust"},
    {"harbour",
     "at the harbour",
     "to the harbour",
     {"behind a heap of nets", "under an upturned boat", "between two barrels", "beside the lighthouse"},
     "gulls cried above the masts"},
}};
inline constexpr std::array<std::string_view, 10> house_spots = {
    "under the bed",    "behind the curtain",     "in the kitchen drawer", "on the top shelf",
    "under the stairs", "behind the big clock",   "in the laundry basket", "under a cushion",
    "beside the stove", "next to the flower pots"};

/// Something to eat that is made at home: what goes into it, the last of which is missing in some stories.
struct Dish {
  std::string_view name;
  std::array<std::string_view, 3> ingredients;
  std::string_view how;
};
inline constexpr std::array<Dish, 14> dishes = {{
    {"apple pie", {"flour", "butter", "apples"}, "rolled out the dough and put the slices on top"},
    {"honey cake", {"flour", "eggs", "honey"}, "stirred everything in the big brown bowl"},
    {"berry cake", {"flour", "sugar", "berries"}, "folded the berries gently into the dough"},
    {"vegetable soup", {"carrots", "potatoes", "salt"}, "let the pot bubble for a long time"},
    {"nut bread", {"flour", "milk", "nuts"}, "kneaded the dough until it was soft"},
    {"pumpkin soup", {"pumpkin", "cream", "pepper"}, "stirred the pot with a long spoon"},
    {"cheese pie", {"flour", "eggs", "cheese"}, "filled the pie and closed the lid of dough"},
    {"rice pudding", {"rice", "milk", "sugar"}, "watched the pot so that it did not boil over"},
    {"plum cake", {"flour", "butter", "plums"}, "laid the plums in neat rows"},
    {"mushroom stew", {"mushrooms", "onions", "salt"}, "cut everything into small pieces"},
    {"oat biscuits", {"oats", "butter", "honey"}, "pressed the dough into little rounds"},
    {"lemon cake", {"flour", "eggs", "lemons"}, "squeezed the lemons until not a drop was left"},
    {"carrot cake", {"flour", "eggs", "carrots"}, "grated the carrots very fine"},
    {"cherry jam", {"cherries", "sugar", "lemons"}, "stirred the pot until the spoon stood upright"},
}};
inline constexpr std::array<std::string_view, 20> snacks = {
    "an apple",    "a pear",   "a slice of bread", "a biscuit",         "a plum",       "a piece of cheese", "a bun",
    "a carrot",    "a peach",  "a waffle",         "a handful of nuts", "some berries", "a boiled egg",      "a banana",
    "some grapes", "a muffin", "a slice of melon", "a pancake",         "a sandwich",   "a bowl of soup"};

/// What stories are about in the end.
inline constexpr std::array<std::string_view, 8> relatives = {"mother",     "father",      "grandmother", "grandfather",
                                                              "big sister", "big brother", "aunt",        "uncle"};

// Words for lists. All are lower case, one word, and typed.
inline constexpr std::array<std::string_view, 24> fruits = {
    "apple",  "banana", "cherry",  "date",    "fig",    "grape",  "lemon",   "mango",
    "orange", "peach",  "pear",    "plum",    "melon",  "kiwi",   "lime",    "berry",
    "olive",  "quince", "apricot", "coconut", "papaya", "raisin", "currant", "nectarine"};
inline constexpr std::array<std::string_view, 24> beasts = {
    "ant",    "bear", "cat",   "dog",  "eagle", "fox",   "goat", "horse", "lion", "mouse",  "owl",    "pig",
    "rabbit", "seal", "tiger", "wolf", "zebra", "camel", "deer", "frog",  "hen",  "iguana", "jackal", "koala"};
inline constexpr std::array<std::string_view, 24> things = {
    "bag", "bell", "book", "box",    "chair",  "clock", "cup",    "door", "fork",  "glove", "hammer",   "ink",
    "jar", "key",  "lamp", "mirror", "needle", "oven",  "pencil", "rope", "spoon", "table", "umbrella", "vase"};

// Entities of facts to remember.
inline constexpr std::array<std::string_view, 20> containers = {
    "box",   "bag",    "chest",    "drawer", "door",  "safe",   "locker", "cabinet", "suitcase", "trunk",
    "crate", "barrel", "cupboard", "gate",   "vault", "basket", "jar",    "case",    "shed",     "wagon"};

}  // namespace fathom::words
