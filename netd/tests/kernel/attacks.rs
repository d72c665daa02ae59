//! Attacks from inside a container, from the LAN and by programs of the host, each with the
//! control that shows that the attack itself works: most are played on a plain bridge first,
//! where all of it must succeed, and then with netd, where nothing may (`stage::play`).
//!
//! | id | what is tried | test |
//! |---|---|---|
//! | C-04 | another's name | `names::members_find_each_other_by_name_and_nobody_else_does` |
//! | C-05 | stalled connections | `resolver::connections_that_stall_keep_no_other_client_waiting` |
//! | C-05 | half-open connections | `resolver::half_open_connections_keep_no_other_client_waiting` |
//! | C-05 | a flood of questions | `resolver::a_flood_of_questions_is_not_felt_by_another_client` |
//! | C-05 | questions out of an internal network | `names::outside_names_are_forwarded_except_from_internal_networks` |
//! | C-06 | garbage, amplification | `messages::no_message_confuses_the_server_or_is_multiplied` |
//! | C-06 | reflection, the LAN asks | `messages::nobody_makes_the_server_talk_to_others` |
//! | N-01 | the host's loopback, from container and LAN | `dials::nobody_else_reaches_what_listens_on_the_loopback_of_the_host` |
//! | N-01 | a port published on loopback | `ports::nobody_goes_around_the_published_port` |
//! | N-02 | RA, redirect, MLD, forged neighbours, extension headers | `frames::a_frame_that_no_container_may_send_reaches_nobody` |
//! | N-02 | an address or a route by RA | `lies::nobody_takes_a_router_advertisement_of_a_container` |
//! | N-02 | the gateway by neighbour discovery | `lies::nobody_becomes_the_gateway_by_neighbour_discovery` |
//! | N-03 | forged ARP, MAC and IP, DHCP server, proxy ARP | `frames::a_frame_that_no_container_may_send_reaches_nobody` |
//! | N-03 | the gateway by ARP; ICMP redirect | `lies::nobody_becomes_the_gateway_by_arp`, `lies::nobody_is_redirected_by_a_container` |
//! | N-03 | a MAC moves; a flood of MACs | `lies::nobody_takes_the_hardware_address_of_a_sibling`, `lies::a_flood_of_hardware_addresses_leaves_the_bridge_as_it_is` |
//! | N-04 | link-local, groups, mapped addresses | `siblings::no_kind_of_address_is_a_side_door`, `matrix` |
//! | N-04 | every protocol, 6in4, extension headers, fragments | `siblings::no_protocol_and_no_fragment_crosses_without_a_link`, `siblings::a_datagram_in_pieces_does_not_cross_without_a_link` |
//! | N-05 | bridged packets pass the firewall by | `siblings::siblings_stay_apart_when_bridged_packets_pass_the_firewall_by` |
//! | N-06 | a published port by the host's addresses | `dials::a_container_does_not_turn_back_to_a_published_port`, `matrix` |
//! | N-07 | services of the host | `dials::a_container_reaches_no_service_of_the_host` |
//! | N-07 | cloud metadata, outside and on the host | `dials::a_container_does_not_reach_the_metadata_of_the_cloud`, `dials::a_container_does_not_reach_metadata_on_the_host` |
//! | N-08 | abstract sockets, netlink in a container | `identity::a_container_finds_no_socket_and_no_rules_of_netd` |
//! | N-09 | a neighbour routes to a container | `dials::a_neighbour_does_not_reach_a_container_by_its_own_address` |
//! | N-09 | likewise while others flush and reload | `siege::nothing_opens_and_nothing_is_lost_while_others_flush_and_reload` |
//! | N-11 | a connection outlives its link | `live::a_link_opens_counts_and_closes_while_both_ends_run` |
//! | N-11 | likewise its published port | `leases::a_connection_does_not_outlive_its_published_port` |
//! | N-12 | squatting on a port | `leases::nobody_squats_on_a_published_port`, `leases::a_port_of_the_host_is_not_stolen_by_publishing_it`, `leases::who_takes_a_port_while_netd_is_away_gets_nothing` |
//! | N-13 | addresses used up by failures | `leases::failures_and_changing_names_do_not_use_up_the_addresses` |
//! | N-14 | killed in the middle | `leases::a_daemon_killed_while_it_attaches_leaves_nothing_unknown`, `adoption` |
//! | N-15 | connections used up | `limit::a_container_opens_so_many_connections_and_no_more` |
//! | N-16 | tags, BPDU, LLDP, every ethertype | `frames::a_frame_that_no_container_may_send_reaches_nobody`, `frames::of_all_kinds_of_frames_three_pass` |
//! | N-16 | what is said to everybody | `lies::nobody_hears_what_a_sibling_says_to_everybody` |
//! | N-17 | MAC, address, macvlan, bridge in a container | `addresses` |
//! | N-18 | devices with our names and indices | `identity::a_foreign_device_with_the_name_of_a_port_is_left_alone`, `identity::a_foreign_bridge_is_not_taken_over`, `identity::a_foreign_device_in_the_place_of_a_port_is_not_taken_for_it`, `identity::devices_that_come_and_go_are_never_mixed_up` |
//! | N-19 | names that mean something elsewhere | `identity::a_name_that_is_no_plain_word_is_refused`, `identity::no_alias_gets_into_the_rules`, `identity::the_longest_names_make_devices_of_their_own` |
//! | N-21 | whose address the server sees | `ports::a_lan_host_reaches_a_published_port_as_itself` |
//! | N-22 | the host routes for others | `forwarding` |
//!
//! Not here, and why: `::1` from outside (the kernel itself drops it, so no control can
//! succeed); frames to the PAUSE group and frames longer than the host's end takes (likewise);
//! indices that wrap around (2^31 devices); vsock and system calls (N-08 of the shim); a hung
//! device reference (N-14 needs a kernel that has the fault).

mod addresses;
mod dials;
mod forwarding;
mod frames;
mod identity;
mod leases;
mod lies;
mod messages;
mod questions;
mod resolver;
mod siblings;
mod stage;
mod wire;
