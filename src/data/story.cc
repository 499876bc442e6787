#include "data/story.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "data/grammar.h"
#include "data/words.h"

namespace fathom {
namespace {

std::string lower(std::string text) {
  for (char& character : text) {
    if (character >= 'A' && character <= 'Z') character = static_cast<char>(character - 'A' + 'a');
  }
  return text;
}

/// The drawn world of one story, and its text as it grows.
class Teller {
 public:
  Teller(Random& random, const StoryRequest& request) : random_(random), grammar_(random) {
    cast(request);
    scene(request);
  }

  Random& random() { return random_; }
  void set(const char* name, std::string value) { grammar_.set(name, std::move(value)); }
  std::string fragment(std::string_view pattern) const { return grammar_.fragment(pattern); }
  const std::string& get(const char* name) const { return grammar_.get(name); }
  void uses_object() { has_object_ = true; }
  /// Draws another thing unless it is one of these.
  template <size_t n>
  void object_among(const std::array<std::string_view, n>& names) {
    has_object_ = true;
    if (std::find(names.begin(), names.end(), get("o")) == names.end()) set_object(random_.pick(names));
  }

  /// A paragraph.
  void tell(std::string_view pattern) {
    if (!story_.text.empty()) story_.text += "\n\n";
    story_.text += grammar_.expand(pattern);
  }
  /// One of several paragraphs that say the same.
  template <size_t n>
  void tell_one(const std::array<std::string_view, n>& patterns) {
    tell(random_.pick(patterns));
  }
  void ask(std::string_view question, std::string_view answer, std::string_view key, std::string_view reason = {}) {
    story_.questions.push_back({grammar_.expand(question), grammar_.expand(answer), lower(grammar_.expand(key)),
                                grammar_.expand(reason.empty() ? answer : reason)});
  }
  bool is_animal() const { return animal_; }

  Story finish() {
    story_.hero = get("h");
    story_.kind = get("k");
    story_.place = get("p");
    if (has_object_) story_.object = get("o");
    ask("Who is the story about?", "The story is about $h, a~ $k.", "$h");
    return std::move(story_);
  }

 private:
  void pronouns(const std::string& prefix, bool female) {
    set((prefix + "he").c_str(), female ? "she" : "he");
    set((prefix + "him").c_str(), female ? "her" : "him");
    set((prefix + "his").c_str(), female ? "her" : "his");
  }

  void person(const std::string& prefix, const std::string& animal, const std::string& avoid) {
    const bool female = random_.chance(0.5);
    std::string name;
    do {
      name = animal.empty() ? std::string(female ? random_.pick(words::girls) : random_.pick(words::boys))
                            : std::string(random_.pick(words::animal_names));
    } while (name == avoid);
    set(prefix.c_str(), name);
    set((prefix + "k").c_str(), animal.empty() ? (female ? "girl" : "boy") : animal);
    pronouns(prefix, female);
  }

  void cast(const StoryRequest& request) {
    animal_ = !request.animal.empty() || random_.chance(0.45);
    std::string kind;
    if (animal_) kind = request.animal.empty() ? std::string(random_.pick(words::animals)) : request.animal;
    person("h", kind, "");
    grammar_.set("k", get("hk"));
    grammar_.set("he", get("hhe"));
    grammar_.set("him", get("hhim"));
    grammar_.set("his", get("hhis"));
    grammar_.set("himself", get("he") == "he" ? "himself" : "herself");
    std::string friend_kind;
    if (animal_) {
      do {
        friend_kind = random_.pick(words::animals);
      } while (friend_kind == kind);
    }
    person("f", friend_kind, get("h"));
    std::string trait(random_.pick(words::traits));
    std::string other;
    do {
      other = random_.pick(words::traits);
    } while (other == trait);
    set("trait", trait);
    set("ftrait", other);
    helper();
  }

  void helper() {
    constexpr std::array<std::string_view, 8> wise = {"the old owl",     "the wise turtle", "the grey heron",
                                                      "the old donkey",  "the old raven",   "the gentle cow",
                                                      "the white goose", "the old toad"};
    constexpr std::array<std::string_view, 10> trades = {
        "the baker",    "the miller",  "the gardener",  "the fisherman",     "the teacher",
        "the shepherd", "the postman", "the carpenter", "the old neighbour", "the librarian"};
    const bool female = random_.chance(0.5);
    pronouns("g", female);
    if (random_.chance(0.35)) {
      constexpr std::array<std::string_view, 4> hers = {"mother", "grandmother", "aunt", "big sister"};
      constexpr std::array<std::string_view, 4> his = {"father", "grandfather", "uncle", "big brother"};
      set("g", get("his") + " " + std::string(female ? random_.pick(hers) : random_.pick(his)));
    } else {
      set("g", std::string(animal_ ? random_.pick(wise) : random_.pick(trades)));
    }
  }

  void set_object(std::string_view name) {
    const auto* object = std::find_if(words::objects.begin(), words::objects.end(),
                                      [&](const words::Object& candidate) { return candidate.name == name; });
    if (object == words::objects.end()) throw_failure("No story can be told of \"{}\"", name);
    set("o", std::string(object->name));
    set("use", std::string(object->use));
    set("charm", std::string(object->charm));
    // A colour once, where the thing is first met; later it is just "the ball".
    const std::string colour(random_.pick(words::colours));
    set("oo", random_.chance(0.6) ? colour + " " + std::string(object->name) : std::string(object->name));
  }

  void scene(const StoryRequest& request) {
    set_object(request.object.empty() ? random_.pick(words::objects).name : std::string_view(request.object));
    const words::Object* second = nullptr;
    do {
      second = &random_.pick(words::objects);
    } while (second->name == get("o"));
    set("x", std::string(second->name));
    const words::Place& place = random_.pick(words::places);
    set("p", std::string(place.name));
    set("at", std::string(place.at));
    set("to", std::string(place.to));
    set("sight", std::string(place.sight));
    std::vector<std::string> spots(place.spots.begin(), place.spots.end());
    random_.shuffle(spots);
    set("spot", spots[0]);
    set("spota", spots[1]);
    set("spotb", spots[2]);
    std::vector<std::string> indoors(words::house_spots.begin(), words::house_spots.end());
    random_.shuffle(indoors);
    set("inside", indoors[0]);
    set("insidea", indoors[1]);
    set("insideb", indoors[2]);
    set("when",
        fragment(
            "{{one|on a} {sunny|bright|warm|cool|windy|quiet|clear|golden} {morning|afternoon|day in spring|day in "
            "summer|day in autumn}|one day|one Saturday|one Sunday morning|early one morning|late one afternoon}"));
    set("snack", std::string(random_.pick(words::snacks)));
  }

  Random& random_;
  Grammar grammar_;
  Story story_;
  bool animal_ = false;
  bool has_object_ = false;
};

// ---- Sentences that many plots share ----

constexpr std::string_view opening =
    "{Once upon a time, there {was|lived} a~ $trait $k named $h.|There was once a~ $trait $k {called|named} $h.|$h was "
    "a~ $trait $k.|In a {small|quiet|little} house near the $p lived a~ $trait $k named $h.|Not far from the $p there "
    "lived a~ {little|young} $k named $h, who was {very|always} $trait.}";

constexpr std::string_view feeling_bad =
    "{$h felt {sad|very sad|heavy and sad}|$his heart {sank|grew heavy}|tears {came to|filled} $his eyes|$h wanted to "
    "cry|$h sat down and {sighed|looked at the ground}}";
constexpr std::string_view feeling_good =
    "{$h {smiled|laughed|beamed} {with joy|from ear to ear|happily}|$his heart {jumped|felt light again|was full of "
    "joy}|$h was so {happy|glad} that $he {danced in a circle|jumped up and down|hugged $f}}";
constexpr std::string_view thanks =
    "{\"Thank you, $f!\" {said|cried|called} $h.|\"Thank you so much,\" said $h. \"You are a true friend.\"|\"What "
    "would I do without you?\" said $h.|\"You are the best friend in the world,\" said $h to $f.}";
constexpr std::string_view evening = "{That evening|When the sun went down|In the evening|When night came}, ";

void friendly_end(Teller& t) {
  t.tell_one<6>({
      "{That evening|When the sun went down}, $h and $f walked home side by side. \"{What a day!|That was a good "
      "day.}\" said $f. $h {nodded|agreed} and {smiled|yawned}.",
      "From that day on, $h and $f were {the best of friends|even better friends than before}. {They met every day "
      "$at.|They shared everything they had.|If one of them was in trouble, the other one came.}",
      "They sat down together and ate $snack. It tasted {better than ever|wonderful|good}, because they shared it.",
      "When $h lay in bed {that night|in the evening}, $he thought of everything that had happened. Then $he fell "
      "asleep with a smile.",
      "$h told {$his family|$his mother|everyone} the whole story at supper, and $f had to tell it once more {the next "
      "day|in the morning}.",
      "{And so the day ended well|So all was well in the end}. {The stars came out|The moon rose} above the $p, and "
      "everybody slept in peace.",
  });
}

/// A last sentence, in some stories.
void moral(Teller& t, std::initializer_list<std::string_view> morals) {
  if (!t.random().chance(0.45)) return;
  const std::vector<std::string_view> list(morals);
  t.set("moral", std::string(list[t.random().below(list.size())]));
  t.tell("{$h had learned that $moral.|^$moral. That is what $h learned that day.|And $h never forgot that $moral.}");
}

// ---- Plots ----

void lost_and_found(Teller& t) {
  t.uses_object();
  const bool outdoors = t.random().chance(0.65);
  t.set("there", t.get(outdoors ? "spot" : "inside"));
  t.set("firstspot", t.get(outdoors ? "spota" : "insidea"));
  t.set("secondspot", t.get(outdoors ? "spotb" : "insideb"));
  t.tell(std::string(opening) +
         " $h had a~ $oo. $he {loved|liked} to $use it {every day|whenever $he could|more than anything}, because "
         "$charm.");
  t.tell(outdoors ? "$when, $h took the $o $to. {There $sight.|^$sight.} $h played {and played|for a long time|and "
                    "forgot the time}. {But when|When} $he wanted to go home, the $o was {gone|nowhere to be seen}."
                  : "$when, $h woke up and wanted to $use the $o. {But|Oh dear,} it was not in its place. The $o was "
                    "{gone|nowhere to be seen}.");
  t.tell(
      "{\"Oh no! Where is my $o?\" {cried|called} $h.|\"My $o! Where can it be?\" said $h.} $he looked $firstspot. "
      "{Nothing.|It was not there.} $he looked $secondspot. {Nothing there either.|It was not there either.} " +
      std::string(feeling_bad) + ".");
  t.tell(
      "{Just then|At that moment|After a while} $h's friend $f came by. {$f was a~ $ftrait $fk.|^$fhe was a~ $ftrait "
      "$fk and always had a good idea.} \"{Why are you sad?|What is the matter?|What happened?}\" asked $f. \"I have "
      "lost my $o,\" said $h. \"{Do not worry|Let us think}. {Where did you {use|have} it last?|When did you see it "
      "last?}\" asked $f. $h thought {hard|for a moment}.");
  t.tell(
      "Together they {searched again|went back over every step|looked once more}, slowly this time. {Then|Suddenly} $f "
      "called: \"{Look!|Come here!|I see something!}\" There it was: the $o lay $there. " +
      std::string(feeling_good) + ". " + std::string(thanks));
  friendly_end(t);
  moral(t, {"a good friend makes every search shorter", "it helps to stop and think before one gives up",
            "one should put things back in their place", "two pairs of eyes see more than one"});
  t.ask("What did $h lose?", "$h lost the $o.", "$o", "$h looked for the $o everywhere.");
  t.ask("Where was the $o?", "The $o was $there.", "$there", "In the end the $o lay $there.");
  t.ask("Who found the $o?", "$f found the $o.", "$f", "$f called out when the $o was seen.");
  t.ask("Where did $h look first?", "$h looked $firstspot first.", "$firstspot");
}

/// What a wind or a magpie can carry.
constexpr std::array<std::string_view, 12> light_objects = {"ball",   "kite", "whistle", "scarf", "hat",     "bell",
                                                            "ribbon", "ring", "coin",    "shell", "feather", "medal"};
/// What breaks when two pull at it and can be glued.
constexpr std::array<std::string_view, 12> breakable_objects = {
    "kite",      "drum",  "doll",  "toy boat",  "spinning top", "wooden box",
    "toy train", "clock", "crown", "telescope", "music box",    "wooden duck"};

void out_of_reach(Teller& t) {
  t.object_among(light_objects);
  t.set("high", t.fragment("{in the top of a tree|on a high wall|on a high branch}"));
  t.set("tool", t.fragment("{ladder|long stick|wooden crate|long rake}"));
  t.tell(std::string(opening) + " {^$he|$h} had a~ $oo and {loved to|could} $use it {all day|for hours}.");
  t.tell(
      "$when, $h was $at. {There $sight.|} {A strong wind came and carried the $o away.|A cheeky magpie took the $o "
      "and flew off with it.|$h threw the $o up for fun, much too high.} When $h looked up, the $o hung $high.");
  t.tell(
      "\"{I must get it back|I will get it down}!\" said $h. First $he {jumped as high as $he could|tried to jump}. It "
      "was not high enough. Then $he {tried to climb up|threw {small stones|sticks} at it}, but {that did not help|the "
      "$o did not move}. " +
      std::string(feeling_bad) + ".");
  t.tell(
      "$f {heard|saw} it and came running. \"{Can I help you?|May I help you?}\" asked $f. \"The $o is $high, and I am "
      "too small,\" said $h. $f {looked up|thought for a while} and {said|answered}: \"Wait here. I know what we "
      "need.\" Soon $fhe came back with a~ $tool.");
  t.tell(
      "{$h held the $tool, and $f {reached up|stretched as far as $fhe could}.|$f held the $tool, and $h {reached "
      "up|stretched as far as $he could}.} {A little more|Just a bit more}... and there it was! The $o {fell down|came "
      "down} into the grass. " +
      std::string(feeling_good) + ". " + std::string(thanks));
  t.tell(
      "\"Now let us $use it together,\" said $h. {They took turns until it got dark.|So they did, and it was twice as "
      "much fun.}");
  moral(t, {"what is too high for one is easy for two", "it is no shame to ask for help",
            "a good idea is better than strong arms"});
  t.ask("Where was the $o?", "The $o was $high.", "$high", "When $h looked up, the $o hung $high.");
  t.ask("What did $f bring?", "$f brought a~ $tool.", "$tool");
  t.ask("Who helped $h?", "$f helped $h.", "$f", "$f came back with a~ $tool.");
}

void sharing(Teller& t) {
  t.object_among(breakable_objects);
  t.tell(std::string(opening) +
         " $his friend $f was a~ $ftrait $fk. {They played together every day.|They lived next door to each "
         "other.|They did everything together.}");
  t.tell(
      "$when, they found a~ $oo $spot. \"I saw it first!\" {said|cried} $h. \"No, I did!\" {said|cried} $f. Both of "
      "them wanted to $use it, because $charm.");
  t.tell(
      "$h pulled on one side, and $f pulled on the other. {Suddenly|Then} there was a {crack|loud crack}. The $o fell "
      "to the ground and {a piece broke off|was broken}. {Both were silent.|Nobody said a word.} $f went home "
      "{angry|without a word}, and $h stayed $at alone. " +
      std::string(feeling_bad) + ".");
  t.tell(
      "{At home|Later}, $g asked: \"{Why are you so quiet?|What is wrong?}\" $h told the whole story. \"{What do you "
      "miss more, the $o or your friend?|What is a~ $o worth without a friend?}\" asked $g. $h {did not have to think "
      "long|knew the answer at once}.");
  t.tell(
      "{The next morning|The next day}, $h took {some glue|a pot of glue} and mended the $o. Then $he went to $f. \"I "
      "am sorry,\" said $h. \"{I was selfish.|I only thought of myself.} You can have it first.\" \"I am sorry too,\" "
      "said $f. \"Let us share it.\"");
  t.tell(
      "{So they took turns.|On even days it was $h's turn, and on odd days it was $f's turn.|They made a rule: first "
      "$f, then $h, and never alone.} {The crack could still be seen, but nobody minded.|It was more fun than ever "
      "before.}");
  moral(t, {"a friend is worth more than any toy", "sharing makes things better",
            "saying sorry takes courage and mends more than glue"});
  t.ask("What did $h and $f find?", "$h and $f found a~ $o.", "$o");
  t.ask("Where did they find the $o?", "They found the $o $spot.", "$spot");
  t.ask("Who mended the $o?", "$h mended the $o.", "$h", "The next day $h took glue and mended the $o.");
  t.ask("Who talked with $h at home?", "^$g talked with $h.", "$g");
}

void animal_in_need(Teller& t) {
  std::string small;
  do {
    small = t.random().pick(words::small_animals);
  } while (small == t.get("k") || small == t.get("fk"));
  t.set("small", small);
  // What happened to it, how it is helped, and where that is told.
  struct Trouble {
    std::string_view what, help;
  };
  constexpr std::array<Trouble, 5> troubles = {{
      {"was caught in a thorny bush", "freed it carefully, thorn by thorn"},
      {"could not get out of a deep hole", "let down a branch so that it could climb out"},
      {"was tangled in an old net", "cut the net carefully, thread by thread"},
      {"had lost its mother", "carried it from bush to bush until they heard its mother call"},
      {"had hurt its foot", "tied a soft leaf around its foot"},
  }};
  const Trouble& trouble = t.random().pick(troubles);
  t.set("trouble", std::string(trouble.what));
  t.set("help", std::string(trouble.help));
  t.tell(std::string(opening) + " {^$he liked to go for walks $to.|^$he knew every path $at.}");
  t.tell(
      "$when, $h {went|walked} $to. ^$sight. {Suddenly|Then} $he heard a {small|thin|sad} {cry|sound}. {^$he followed "
      "the sound.|^$he stood still and listened.} There was a little $small. It $trouble.");
  t.tell(
      "\"{Poor thing|You poor little one}!\" said $h. \"{I will help you|Do not be afraid}.\" {But the $small was "
      "afraid|The $small trembled}, so $h {sat down and spoke softly|waited quietly} until it {was calm|trusted $him}. "
      "Then $he $help.");
  t.tell(
      "{$h gave it some water and {a few seeds|some crumbs}.|$h stayed with it until it was well again.} {A few days "
      "later|By the end of the week} the $small was {strong and merry|well again}. {It looked back once and was "
      "gone.|It said goodbye in its own way and went home.}");
  t.tell(
      "{Weeks later|In the autumn}, $h {lost the way|got lost} in the {hills|deep woods}. {Fog lay over everything|It "
      "was getting dark}, and no path could be seen. {Then|Suddenly} the $small {stood before $him|was there}. It "
      "{went ahead|showed the way}, step by step, until $h {saw the light of home|was back at home}. \"Now you have "
      "helped me,\" said $h. \"Thank you, little friend.\"");
  moral(t,
        {"kindness comes back", "even the smallest friend can be a great help", "whoever helps others is never alone"});
  t.ask("What did $h find?", "$h found a little $small.", "$small");
  t.ask("What was wrong with the little $small?", "The little $small $trouble.", "$trouble");
  t.ask("What happened to $h later?", "$h got lost, and the $small showed the way home.", "lost",
        "Later $h was lost, and the $small went ahead.");
}

void cooking(Teller& t) {
  const words::Dish& dish = t.random().pick(words::dishes);
  t.set("dish", std::string(dish.name));
  t.set("one", std::string(dish.ingredients[0]));
  t.set("two", std::string(dish.ingredients[1]));
  t.set("missing", std::string(dish.ingredients[2]));
  t.set("how", std::string(dish.how));
  t.set("occasion", t.fragment("{birthday|big day}"));
  t.tell(std::string(opening) +
         " {Tomorrow was the $occasion of $his friend $f.|The next day $f, $his best friend, would have $fhis "
         "$occasion.} \"I will make a~ $dish,\" {said|thought} $h. \"{$f loves it|That is what $f likes best}.\"");
  t.tell(
      "$h {took out the big bowl|opened the cupboard}. ^$he found the $one. ^$he found the $two. But $he found no "
      "$missing. \"{How can I make a~ $dish without $missing?|Oh no, no $missing!}\" said $h.");
  t.tell(
      "$he went to $g and asked for some $missing. \"{I will gladly give you some|You can have as much as you need},\" "
      "said $g, \"{but please carry in my firewood first|if you sweep my yard|but please water my garden first}.\" $h "
      "{worked hard|did it at once and did it well}, and got as much of it as $he needed.");
  t.tell(
      "{Back at home|Now} the work began. $h mixed $one and $two and $missing, and $how. {Soon a wonderful smell "
      "filled the house.|The whole house smelled wonderful.} {$h burned one finger a little, but $he did not give "
      "up.|There was flour on the floor and on $his nose.|It took longer than $he had thought.}");
  t.tell(
      "{The next day|In the morning}, $h carried the $dish to $f. {$f's eyes grew wide.|$f could not believe it.} "
      "\"Did you make this for me?\" asked $f. \"Yes, {all by myself|with my own hands},\" said $h. They ate it "
      "together, and it was {delicious|the best $dish in the world}.");
  moral(t,
        {"a gift made by hand is the best gift", "good things take time", "work and patience taste sweet in the end"});
  t.ask("What did $h make?", "$h made a~ $dish.", "$dish");
  t.ask("What was missing?", "$h had no $missing.", "$missing", "$h found the $one and the $two, but no $missing.");
  t.ask("Who gave $h some $missing?", "^$g gave $h some $missing.", "$g");
  t.ask("Who was the $dish for?", "The $dish was for $f.", "$f");
}

void noise_in_the_night(Teller& t) {
  t.set("noise", t.fragment("{a scratching sound|a strange knocking|a soft whistling|a loud rattling}"));
  t.set("cause", t.fragment("{a branch that tapped against the window|a hedgehog in a flower pot|an open shutter in "
                            "the wind|a kitten that wanted to come in|an acorn that rolled over the roof}"));
  t.tell(std::string(opening) +
         " {By day $he was afraid of nothing.|There was only one thing that $he did not like: the dark.} {But at night "
         "everything was different.|But when the lamp went out, $he pulled the blanket up to $his nose.}");
  t.tell(
      "One night, $h woke up. There was $noise. {Tap, tap, tap.|There it was again.} \"{Who is there?|Is it a "
      "monster?}\" whispered $h. Nobody answered. {$his heart beat like a drum.|$h held $his breath.}");
  t.tell(
      "{$f was staying for the night.|$f slept in the other bed that night.} $h woke $fhim up. \"{Do you hear "
      "that?|Listen!}\" said $h. $f {sat up|rubbed $fhis eyes}. \"I am a little afraid too,\" said $f, \"but {together "
      "we can look|if we do not look, we will never know}.\"");
  t.tell(
      "They {took a candle|lit the lamp} and {tiptoed|crept} {to the door|to the window}. {Step by step|Slowly} they "
      "came closer. {One, two, three:|Then} $h {pulled the curtain aside|opened it}. And what was it? It was only "
      "$cause!");
  t.tell(
      "{Both of them laughed until their bellies hurt.|They looked at each other and began to laugh.} \"{Was that our "
      "monster?|And I was so afraid of that!}\" said $h. {They went back to bed and slept until the sun was high.|From "
      "then on the dark was just the day without light.}");
  moral(t, {"fear grows smaller when one looks at it", "being brave means to look although one is afraid",
            "the dark hides nothing that was not there by day"});
  t.ask("What did $h hear?", "$h heard $noise.", "$noise");
  t.ask("What made the sound?", "It was $cause.", "$cause", "They looked, and it was only $cause.");
  t.ask("Who went with $h to look?", "$f went with $h.", "$f");
}

void truth(Teller& t) {
  t.set("thing", t.fragment("{tall vase|big mirror|glass bowl|white teapot|flower pot|painted plate}"));
  t.set("elder", t.get("his") + " " + t.fragment("{mother|father|grandmother|grandfather}"));
  const bool woman = t.get("elder").find("mother") != std::string::npos;
  t.set("ehe", woman ? "she" : "he");
  t.tell(std::string(opening) +
         " {^$he liked to run through the house.|^$he could not sit still for long.} \"{Not in the house|Please play "
         "outside}!\" $elder often said.");
  t.tell(
      "One {rainy|stormy|grey} {morning|afternoon|day} $h could not go out and was bored. $he {threw a ball against "
      "the wall|ran around the table|slid over the floor in $his socks}. Once it went well, and twice it went well. "
      "{But then|The third time} there was a crash. The $thing lay on the floor in {a hundred|many} pieces.");
  t.tell(
      "{$h was frightened.|$h grew pale.} \"{Nobody saw it|If I say nothing, nobody will know},\" $he thought. $he "
      "{swept up the pieces|gathered the pieces} and hid them $inside. When $elder came home and asked about the "
      "$thing, $h said: \"{I do not know|Maybe it was the wind}.\"");
  t.tell(
      "But {the lie|that sentence} was heavy. {At supper $h could not eat.|$h did not want to play any more.} {At "
      "night $he could not sleep.|In bed $he turned from one side to the other.} {It felt like a stone in $his "
      "belly.|The pieces seemed to call $him.}");
  t.tell(
      "{At last|In the morning} $h went to $elder. \"I broke the $thing,\" $he said, \"and I hid the pieces $inside. I "
      "am sorry.\" {There was a long silence.|^$ehe looked at $h for a long time.} \"{It makes me sad that it is "
      "broken|The $thing was dear to me},\" said $elder, \"but {I am glad that you told me the truth|the truth is "
      "dearer to me}.\"");
  t.tell(
      "Together they glued {what could be glued|the pieces}. {It did not look as before, but it stood in its place "
      "again.|One could see every crack, but it held.} And $h felt {as light as a feather|light again}.");
  moral(t, {"the truth is hard for a moment and a lie is hard for long", "telling the truth makes the heart light",
            "it is better to own up than to hide"});
  t.ask("What did $h break?", "$h broke the $thing.", "$thing");
  t.ask("Where did $h hide the pieces?", "$h hid the pieces $inside.", "$inside");
  t.ask("Did $h tell the truth in the end?", "Yes, $h told the truth in the end.", "yes",
        "In the end $h said: I broke the $thing.");
}

void storm(Teller& t) {
  t.set("shelter", t.fragment("{an old mill|a little hut|a shepherd's cabin|a cave|a barn}"));
  t.tell(std::string(opening) +
         " {^$he|$h} wanted to {see the $p|go $to} with $his friend $f, a~ $ftrait $fk. They packed $snack and set out "
         "{early|after breakfast}.");
  t.tell(
      "{At first the sun was shining.|The day began with a blue sky.} $at, $sight. {They played and ate and forgot the "
      "time.|They stayed much longer than they had planned.} {Nobody noticed the clouds.|Behind them the sky grew "
      "dark.}");
  t.tell(
      "{Suddenly there was thunder.|Then came the first flash of lightning.} {Rain poured down|It began to pour}, and "
      "{the wind howled|in a moment they were wet to the skin}. \"{We have to find shelter|We cannot stay here}!\" "
      "cried $f. $h {was afraid, but $he did not let go of $f's hand|looked around}. \"There!\" called $h. \"I see "
      "$shelter!\"");
  t.tell(
      "They ran as fast as they could. {The door was open.|Inside it was dry.} {$g was already there and made room for "
      "them.|And who was sitting there? It was $g.} \"Come in, {you two|children of the rain},\" said $g and gave them "
      "{warm tea|a dry blanket|something warm to drink}. They told each other stories until the storm was over.");
  t.tell(
      "{When they stepped outside|An hour later}, the air {smelled of wet earth|was fresh and clear}. {A rainbow stood "
      "over the $p.|Above the $p shone a rainbow with all its colours.} \"{Without the storm we would not have seen "
      "it|Look how beautiful},\" said $h.");
  friendly_end(t);
  moral(t, {"after the storm the sun shines again", "one should keep an eye on the sky",
            "a stranger's open door is worth more than gold"});
  t.ask("Where did $h and $f find shelter?", "They found shelter in $shelter.", "$shelter",
        "$h saw $shelter in the storm.");
  t.ask("Who went with $h?", "$f went with $h.", "$f");
  t.ask("Who was in the shelter?", "^$g was in the shelter.", "$g");
}

void seed(Teller& t) {
  t.set("plant", t.fragment("{sunflower|pumpkin|apple tree|bean|rose bush|strawberry plant}"));
  t.set("giver", t.get("g"));
  t.tell(std::string(opening) +
         " {For $his birthday|One day in spring} $giver gave $him a {tiny|small} brown seed. \"{Take good care of "
         "it|It needs patience},\" said $giver. \"It will be a~ $plant.\"");
  t.tell(
      "$h {dug a little hole|made a hole with $his finger}, put the seed in and covered it with earth. $he watered it. "
      "Then $he sat down beside it and waited. {Nothing happened.|An hour went by, and nothing happened.} The next day "
      "$h looked again. {Still nothing.|There was only brown earth.}");
  t.tell(
      "\"{There is nothing in there|You are wasting your time},\" said $f and laughed. \"{Come and play instead|Forget "
      "it}.\" {$h was not sure any more.|$h began to doubt.} But every morning $he brought water, and every evening "
      "$he pulled out the weeds. {One week passed, and then another.|So two weeks passed.}");
  t.tell(
      "Then, {one morning|after a night of rain}, there was a {tiny green tip|little green leaf}. \"It is growing!\" "
      "{shouted|cried} $h. {Day by day it grew taller.|Every day it was a little bigger.} {Soon it was as tall as $h "
      "$himself.|Soon everybody stopped to look at it.}");
  t.tell(
      "{In late summer|When summer came}, the $plant was {the finest|the most beautiful} in the whole village. Now $f "
      "was {ashamed|sorry}. \"{I was wrong|I should not have laughed},\" said $f. \"{May I help you water it?|Will you "
      "show me how you did it?}\" \"{Of course|Gladly},\" said $h, and gave $f a seed {of $fhis own|from the $plant}.");
  moral(t, {"patience makes things grow", "what is worth having takes time",
            "one should not laugh at what is still small"});
  t.ask("What grew from the seed?", "A~ $plant grew from the seed.", "$plant");
  t.ask("Who gave $h the seed?", "^$giver gave $h the seed.", "$giver");
  t.ask("Who laughed at first?", "$f laughed at first.", "$f");
}

void race(Teller& t) {
  t.set("goal", t.fragment("{old oak|bridge|mill|red gate|big rock}"));
  t.tell(std::string(opening) +
         " {^$he was not the fastest, but $he never gave up.|^$he did everything slowly and well.} $f, a~ $ftrait $fk, "
         "was fast, and {everybody knew it|$fhe told it to everyone}.");
  t.tell(
      "\"{Let us race|I can beat anyone},\" said $f $when. \"From here to the $goal!\" {Some laughed.|All the others "
      "came to watch.} $h {thought about it|took a deep breath} and said: \"{All right|Good}. I will try.\"");
  t.tell(
      "^$g called: \"One, two, three, go!\" $f was off like the wind. {Soon $fhe was far ahead.|After a moment $fhe "
      "could hardly be seen.} \"{I have plenty of time|$h will never catch me},\" thought $f. ^$fhe {stopped to eat "
      "$snack|lay down in the shade|stopped to pick flowers} and {forgot the race|fell asleep}.");
  t.tell(
      "$h went on, step by step. {^$he was hot and thirsty|^$his legs hurt}, but $he did not stop. ^$he passed {the "
      "stream|the hedge}, and $he passed $f without a sound. {When $f looked up|When $f woke up}, $h was almost at the "
      "$goal. $f ran as fast as $fhe could, but it was too late. $h touched the $goal first.");
  t.tell(
      "{Everybody cheered.|The others clapped.} $f came, out of breath. {For a moment $fhe was angry, and then $fhe "
      "had to laugh.|^$fhe looked at the ground.} \"You have won, and you deserved it,\" said $f. \"{You can run "
      "faster|You are quicker than I am},\" said $h, \"{but I did not stop|I was only more patient}.\"");
  moral(t, {"slow and steady reaches the goal", "it is not enough to be fast", "pride makes the way longer"});
  t.ask("Who won the race?", "$h won the race.", "$h", "$h touched the $goal first.");
  t.ask("Where did the race end?", "The race ended at the $goal.", "$goal");
  t.ask("Who gave the sign to start?", "^$g gave the sign to start.", "$g");
}

void trade(Teller& t) {
  t.uses_object();
  t.set("first", t.get("x"));
  std::string second;
  do {
    second = t.random().pick(words::objects).name;
  } while (second == t.get("x") || second == t.get("o"));
  t.set("second", second);
  std::vector<std::string> traders = {"the baker",    "the miller",    "the fisherman",
                                      "the shepherd", "the carpenter", "the gardener"};
  t.random().shuffle(traders);
  t.set("ta", traders[0]);
  t.set("tb", traders[1]);
  t.set("tc", traders[2]);
  t.tell(std::string(opening) +
         " More than anything $he wanted a~ $oo, because $charm. {But $he had no money.|But $his purse was empty.} All "
         "$he had was a~ $first.");
  t.tell(
      "$when, $h went to the market. ^$ta looked at the $first and said: \"{What a fine $first!|Just what I need.} I "
      "would give you a~ $second for it.\" {$h thought for a moment and agreed.|\"Done!\" said $h.} Now $h had the "
      "$second, and $ta had the $first.");
  t.tell(
      "{A little further|At the next corner} stood $tb. ^$tb had a~ $o, the very one that $h had dreamed of. \"{Will "
      "you trade it for a~ $second?|Would you take my $second for it?}\" asked $h. ^$tb shook $his_t head. \"{I have "
      "a~ $second already|I need no $second}. {But I am hungry.|But I would like something to eat.}\"");
  t.tell(
      "$h did not give up. ^$he went to $tc, who {was tired|had hurt a foot}, and offered to help. {$h carried sacks "
      "until noon.|$h worked the whole morning.} As a reward $tc gave $him $snack and a loaf of bread. {$h was hungry "
      "too, but $he did not eat the bread.|The bread smelled good, but $h did not touch it.}");
  t.tell(
      "$h brought the loaf of bread to $tb. \"{You thought of me|You came back},\" said $tb {and smiled|with a smile}. "
      "\"Here, the $o is yours.\" {$h could hardly believe it.|$h jumped for joy.} So $h went home with the $o, and "
      "$he still had the $second. {The next day $he gave the $second to $f.|^$he gave the $second to $f, who had "
      "always wanted one.}");
  moral(t, {"one gets further by listening to what others need", "whoever works for a wish enjoys it more",
            "a good trade makes both sides happy"});
  t.ask("Who had the $first in the end?", "^$ta had the $first in the end.", "$ta", "$h gave the $first to $ta.");
  t.ask("Who had the $o in the end?", "$h had the $o in the end.", "$h", "^$tb gave the $o to $h for the bread.");
  t.ask("Who had the $second in the end?", "$f had the $second in the end.", "$f", "$h gave the $second to $f.");
  t.ask("What did $h want?", "$h wanted a~ $o.", "$o");
}

void surprise(Teller& t) {
  t.uses_object();
  t.tell(std::string(opening) +
         " $f was $his best friend. {But today $f was strange.|But for some days $f had no time.} \"{Do you want to "
         "play?|Shall we go $to?}\" asked $h. \"{Not today|I cannot},\" said $f and {ran off|closed the door}.");
  t.tell(
      "{The next day it was the same.|It was the same the day after.} $h saw $f whisper with $g. {When $h came closer, "
      "they fell silent.|As soon as they saw $h, they stopped.} \"{They do not like me any more|I must have done "
      "something wrong},\" thought $h. " +
      std::string(feeling_bad) + ".");
  t.tell(
      "$when, $h went $to alone. ^$sight, but $h {did not see any of it|had no eyes for that}. ^$he sat $spot and "
      "{thought of the good times|did not know what to do}. \"{I will just ask $f|It is better to ask than to "
      "guess},\" said $h at last and stood up.");
  t.tell(
      "$h knocked on $f's door. {It was dark inside.|Nobody answered, but the door was open.} $h stepped in, and then "
      "the lamps were lit. \"Surprise!\" called $f and $g and all the others. {There was a big cake on the "
      "table.|Paper flowers hung from the ceiling.} It was $h's birthday, and $he had forgotten it $himself!");
  t.tell(
      "\"This is for you,\" said $f and gave $h a~ $oo. \"{I worked on it all week|That is why I had no time for "
      "you}.\" $h looked at the $o. {It was wonderful: $charm.|^$he had always wanted one, because $charm.} " +
      std::string(feeling_good) + ".");
  moral(t, {"it is better to ask than to guess", "a friend who keeps a secret may be planning a joy",
            "one should not think ill of a friend too soon"});
  t.ask("What did $f give $h?", "$f gave $h a~ $o.", "$o");
  t.ask("Why had $f no time?", "$f was preparing a surprise for $h.", "surprise",
        "It was $h's birthday, and $f planned a surprise.");
  t.ask("Where did $h sit alone?", "$h sat $spot.", "$spot");
}

void learning(Teller& t) {
  t.set("skill", t.fragment("{sing|whistle|read|climb|dance|paint|juggle|count to a hundred}"));
  t.tell(std::string(opening) +
         " All the others could $skill, only $h could not. {\"I will never learn it,\" $he said.|That made $him sad.} "
         "{$f could $skill best of all.|Even little $f could $skill.}");
  t.tell(
      "$when, $h went $to alone to practise. {The first time it went wrong.|^$he tried, and it went wrong.} ^$he tried "
      "again, and it went wrong again. {\"I am no good at this,\" said $h and kicked a stone.|^$he was so angry that "
      "$he threw $his hat into the grass.}");
  t.tell(
      "^$g had seen it. \"{Do you know how often I failed|How many times have you tried}?\" asked $g. \"{Three "
      "times|Five times|Ten times},\" said $h. \"{I needed a hundred|That is a good start},\" said $g. \"{Do a little "
      "every day|Do not look at the end, look at the next step}.\"");
  t.tell(
      "So $h practised a little every day. {On Monday it went badly.|The first days were hard.} {On Wednesday it went "
      "a bit better.|Then it went a bit better.} $f came along and {showed $him how|cheered $him on}. {Sometimes $h "
      "wanted to stop, but $he did not.|Every evening $h was tired and content.}");
  t.tell(
      "And then, {after two weeks|one Sunday}, it happened: $h could $skill! {It was not perfect, but it was real.|At "
      "first $he did not even notice it.} \"{You did it|I knew you could do it}!\" {shouted|called} $f. " +
      std::string(feeling_good) + ".");
  moral(t, {"practice is stronger than talent", "everybody starts small", "a mistake is a step on the way"});
  t.ask("What did $h learn?", "$h learned to $skill.", "$skill");
  t.ask("Who gave $h advice?", "^$g gave $h advice.", "$g");
  t.ask("Who could $skill before $h?", "$f could $skill before $h.", "$f");
}

void new_neighbour(Teller& t) {
  t.uses_object();
  t.tell(std::string(opening) +
         " {One day somebody new came to the village:|Next door somebody moved in:} $f, a~ $ftrait $fk. {$f knew "
         "nobody yet.|$f sat in front of the house all alone.}");
  t.tell(
      "$h watched from behind the fence. \"{I would like to say hello|Should I go over},\" $he thought, \"but what if "
      "$f {does not like me|laughs at me}?\" {$h was too shy.|So $he stayed where $he was.} \"{A friend is a stranger "
      "whom you have said hello to|Somebody has to say the first word},\" said $g.");
  t.tell(
      "$when, $h took all $his courage. ^$he took $his $oo, went over and said: \"Hello, I am $h. {Do you want to $use "
      "this with me?|Would you like to see my $o?}\" {For a moment it was quiet.|$f looked up.} Then $f smiled. "
      "\"{Yes, very much|I would love to}!\" said $f.");
  t.tell(
      "{They went $to together.|$h showed $f the way $to.} ^$sight. They {played with the $o|laughed} {all "
      "afternoon|until they were hungry}. Then $f took out $snack, and they shared. \"{Half for you, half for me|One "
      "half is yours},\" said $f.");
  t.tell(
      "\"{I was afraid to talk to you|I was afraid to come over},\" said $h on the way home. \"{And I was afraid that "
      "nobody would come|So was I},\" said $f. They looked at each other and laughed.");
  moral(t, {"somebody has to say hello first", "shy people can be the best friends",
            "a small step can begin a great friendship"});
  t.ask("Who was new?", "$f was new.", "$f");
  t.ask("What did $h take along?", "$h took the $o along.", "$o");
  t.ask("Where did they go together?", "They went $to.", "$p");
}

using Plot = void (*)(Teller&);
/// Those that can be told of any object.
constexpr std::array<Plot, 4> plots_with_object = {lost_and_found, trade, surprise, new_neighbour};
constexpr std::array<Plot, 14> all_plots = {
    lost_and_found, out_of_reach, sharing, animal_in_need, cooking,  noise_in_the_night, truth,
    storm,          seed,         race,    trade,          surprise, learning,           new_neighbour};

}  // namespace

Story make_story(Random& random, const StoryRequest& request) {
  Teller teller(random, request);
  teller.set("his_t", random.chance(0.5) ? "his" : "her");
  if (request.object.empty()) {
    random.pick(all_plots)(teller);
  } else {
    random.pick(plots_with_object)(teller);
  }
  return teller.finish();
}

}  // namespace fathom
